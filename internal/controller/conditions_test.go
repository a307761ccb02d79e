package controller_test

import (
	"context"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

var _ = Describe("A status that says the same again", func() {
	DescribeTable("is not written, though a pass connects before it fails", func(ctx context.Context, policy v1alpha1.ManagementPolicy) {
		servers := startNATS(1, func(o *server.Options) {
			o.Users = []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.INFO.>"}},
			}}}
		})
		ns := newNamespace(ctx)
		secret := newSecret(ctx, ns, map[string]string{"username": "u", "password": "p"})
		class := newClass(ctx, servers.URLs(), withCredentials(ns, secret.Name))
		store := create(ctx, newStore(ns, class.Name, func(s *v1alpha1.EventStore) { s.Spec.ManagementPolicy = policy }))
		Eventually(read(ctx, store)).WithContext(ctx).Should(haveCondition(v1alpha1.ConditionConnected, metav1.ConditionFalse, v1alpha1.ReasonPermissionDenied))
		// Times of conditions are whole seconds.
		Eventually(func() time.Duration {
			return time.Since(meta.FindStatusCondition(read(ctx, store)(Default).Status.Conditions, v1alpha1.ConditionConnected).LastTransitionTime.Time)
		}).Should(BeNumerically(">", 2*time.Second))
		version := annotate(ctx, store, unique("poke"))
		Consistently(func(g Gomega) string { return read(ctx, store)(g).ResourceVersion }).WithTimeout(2 * consistentTime).Should(Equal(version))
	},
		Entry("as it lacks a permission", v1alpha1.ManagementFull),
		Entry("as it lacks a permission while it is paused", v1alpha1.ManagementPaused),
	)
})
