package v1alpha1_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

var counter atomic.Int64

// object reads a spec as a person writes it, in YAML.
func object(kind, spec string) *unstructured.Unstructured {
	GinkgoHelper()
	o := &unstructured.Unstructured{Object: map[string]any{}}
	Expect(yaml.Unmarshal([]byte(spec), &o.Object)).To(Succeed())
	o.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	if o.GetName() == "" {
		o.SetName(fmt.Sprintf("x-%d", counter.Add(1)))
	}
	if kind == "EventStore" {
		o.SetNamespace("default")
	}
	return o
}

// create creates and cleans up.
func create(ctx context.Context, o *unstructured.Unstructured) error {
	err := k8s.Create(ctx, o, client.FieldValidation("Strict"))
	if err == nil {
		DeferCleanup(func(ctx context.Context) { Expect(k8s.Delete(ctx, o)).To(Succeed()) })
	}
	return err
}

func accepted(kind string) func(context.Context, string) {
	return func(ctx context.Context, spec string) {
		Expect(create(ctx, object(kind, spec))).To(Succeed())
	}
}

func refused(kind string) func(context.Context, string, string) {
	return func(ctx context.Context, spec, message string) {
		Expect(create(ctx, object(kind, spec))).To(MatchError(ContainSubstring(message)))
	}
}

var _ = Describe("An EventStore", func() {
	long := strings.Repeat("x", 64)

	DescribeTable("is accepted with", accepted("EventStore"),
		Entry("nothing", ``),
		Entry("an empty spec", `spec: {}`),
		Entry("every field", `spec: {namespace: shop, className: standard, retention: {maxAge: 30d, maxBytes: 10Gi}, replicas: 3, storage: Memory, compression: None, duplicateWindow: 1h30m, snapshots: {history: 5}, placement: {cluster: east, tags: [ssd, "az:a"]}, protection: Immutable, deletionPolicy: Retain, managementPolicy: Observe, adoptionPolicy: Adopt, access: [{serviceAccount: checkout, namespace: web, role: Reader}]}`),
		Entry("a name of 63 characters", `metadata: {name: `+long[:63]+`}`),
		Entry("an event namespace of 63 characters", `spec: {namespace: `+long[:63]+`}`),
		Entry("the fewest replicas", `spec: {replicas: 1}`),
		Entry("the most replicas", `spec: {replicas: 5}`),
		Entry("every unit of age", `spec: {retention: {maxAge: 1y1w1d1h1m1s}}`),
		Entry("an age in seconds", `spec: {retention: {maxAge: 1s}}`),
		Entry("no end of age", `spec: {retention: {maxAge: "0"}}`),
		Entry("an age with zeros in it", `spec: {retention: {maxAge: 10d0h}}`),
		Entry("the longest age", `spec: {retention: {maxAge: 290y}}`),
		Entry("the longest age in seconds", `spec: {retention: {maxAge: 999999999s}}`),
		Entry("one byte", `spec: {retention: {maxBytes: 1}}`),
		Entry("bytes in a fraction of a unit", `spec: {retention: {maxBytes: 1.5Gi}}`),
		Entry("bytes in a decimal unit", `spec: {retention: {maxBytes: 2.5k}}`),
		Entry("as many bytes as can be counted", `spec: {retention: {maxBytes: "9223372036854775806"}}`),
		Entry("seven exbibytes", `spec: {retention: {maxBytes: 7Ei}}`),
		Entry("a tebibyte and more", `spec: {retention: {maxBytes: 1023Gi}}`),
		Entry("bytes of snapshots", `spec: {snapshots: {maxBytes: 1Gi}}`),
		Entry("the shortest duplicate window", `spec: {duplicateWindow: 1s}`),
		Entry("the longest duplicate window", `spec: {duplicateWindow: 1d}`),
		Entry("the longest duplicate window in parts", `spec: {duplicateWindow: 23h59m60s}`),
		Entry("the fewest snapshots", `spec: {snapshots: {history: 1}}`),
		Entry("the most snapshots", `spec: {snapshots: {history: 64}}`),
		Entry("an empty placement", `spec: {placement: {cluster: "", tags: []}}`),
		Entry("management paused", `spec: {managementPolicy: Paused}`),
		Entry("a service account", `spec: {access: [{serviceAccount: checkout}]}`),
		Entry("a service account with dots", `spec: {access: [{serviceAccount: checkout.v2-1}]}`),
		Entry("a service account with a name of 253 characters", `spec: {access: [{serviceAccount: `+strings.Repeat("x", 253)+`}]}`),
		Entry("a service account of two namespaces", `spec: {access: [{serviceAccount: checkout}, {serviceAccount: checkout, namespace: web}]}`),
		Entry("64 service accounts with the longest names that fit", `spec: {access: [`+manyAccounts(64, 64)+`]}`),
	)

	DescribeTable("is refused with", refused("EventStore"),
		Entry("a name with dots", `metadata: {name: a.b}`, "the name must be a DNS label"),
		Entry("a name of 64 characters", `metadata: {name: `+long+`}`, "the name must be a DNS label"),
		Entry("an event namespace with dots", `spec: {namespace: a.b}`, "spec.namespace"),
		Entry("an event namespace in upper case", `spec: {namespace: Shop}`, "spec.namespace"),
		Entry("an event namespace of 64 characters", `spec: {namespace: `+long+`}`, "spec.namespace"),
		Entry("an empty event namespace", `spec: {namespace: ""}`, "spec.namespace"),
		Entry("an empty class", `spec: {className: ""}`, "spec.className"),
		Entry("a class name that is too long", `spec: {className: `+strings.Repeat("x", 254)+`}`, "spec.className"),
		Entry("no replicas", `spec: {replicas: 0}`, "spec.replicas"),
		Entry("too many replicas", `spec: {replicas: 6}`, "spec.replicas"),
		Entry("unknown storage", `spec: {storage: Tape}`, `supported values: "File", "Memory"`),
		Entry("an unknown deletion policy", `spec: {deletionPolicy: Orphan}`, `supported values: "Retain", "Delete"`),
		Entry("an age without a unit", `spec: {retention: {maxAge: "30"}}`, "spec.retention.maxAge"),
		Entry("an age with an unknown unit", `spec: {retention: {maxAge: 30x}}`, "spec.retention.maxAge"),
		Entry("an empty age", `spec: {retention: {maxAge: ""}}`, "spec.retention.maxAge"),
		Entry("an age below zero", `spec: {retention: {maxAge: -1d}}`, "spec.retention.maxAge"),
		Entry("zero in seconds", `spec: {retention: {maxAge: 0s}}`, `write "0" to keep events for ever`),
		Entry("zero in parts", `spec: {retention: {maxAge: 0d0h}}`, `write "0" to keep events for ever`),
		Entry("an age that is too long", `spec: {retention: {maxAge: 291y}}`, "longer than 290 years"),
		Entry("an age that is too long in parts", `spec: {retention: {maxAge: 290y1s}}`, "longer than 290 years"),
		Entry("an age of the largest numbers", `spec: {retention: {maxAge: 999999999y999999999w999999999d}}`, "longer than 290 years"),
		Entry("an age of too many characters", `spec: {retention: {maxAge: `+strings.Repeat("1s", 17)+`}}`, "Too long"),
		Entry("no bytes", `spec: {retention: {maxBytes: 0}}`, "must be a whole number of bytes"),
		Entry("no bytes, with a unit", `spec: {retention: {maxBytes: 0Gi}}`, "must be a whole number of bytes"),
		Entry("bytes below zero", `spec: {retention: {maxBytes: -1Gi}}`, "must be a whole number of bytes"),
		Entry("part of a byte", `spec: {retention: {maxBytes: 500m}}`, "must be a whole number of bytes"),
		Entry("one byte more than can be counted, as text", `spec: {retention: {maxBytes: "9223372036854775807"}}`, "must be a whole number of bytes"),
		// What it takes to read one grows with the square of its length.
		Entry("very many digits", `spec: {retention: {maxBytes: "1.`+strings.Repeat("9", 40)+`Ki"}}`, "in at most 32 characters"),
		Entry("an exponent far below zero", `spec: {retention: {maxBytes: "1e-20000000"}}`, "in at most 32 characters"),
		Entry("half a byte", `spec: {retention: {maxBytes: "0.5"}}`, "must be a whole number of bytes"),
		Entry("a byte and a half", `spec: {retention: {maxBytes: "1.5"}}`, "must be a whole number of bytes"),
		Entry("part of a byte of snapshots", `spec: {snapshots: {maxBytes: "1.5"}}`, "must be a whole number of bytes"),
		Entry("an age in months", `spec: {retention: {maxAge: 1M}}`, "there are no months"),
		Entry("an age in fractions", `spec: {retention: {maxAge: 1.5d}}`, "no fractions"),
		Entry("an age in milliseconds", `spec: {retention: {maxAge: 500ms}}`, "nothing shorter than 1s"),
		Entry("an age of nothing", `spec: {retention: {maxAge: ""}}`, "is no duration"),
		Entry("more bytes than can be counted", `spec: {retention: {maxBytes: 8Ei}}`, "must be a whole number of bytes"),
		Entry("bytes that are no number", `spec: {retention: {maxBytes: lots}}`, "spec.retention.maxBytes"),
		Entry("unknown compression", `spec: {compression: Zstd}`, `supported values: "S2", "None"`),
		Entry("no duplicate window", `spec: {duplicateWindow: 0s}`, "is zero"),
		Entry("a duplicate window without a unit", `spec: {duplicateWindow: "120"}`, "spec.duplicateWindow"),
		Entry("a duplicate window that is too long", `spec: {duplicateWindow: 1d1s}`, "longer than 1d"),
		Entry("no snapshots", `spec: {snapshots: {history: 0}}`, "spec.snapshots.history"),
		Entry("too many snapshots", `spec: {snapshots: {history: 65}}`, "spec.snapshots.history"),
		Entry("a placement that is no name", `spec: {placement: {cluster: "a b"}}`, "spec.placement.cluster"),
		Entry("an empty tag", `spec: {placement: {tags: [""]}}`, "spec.placement.tags[0]"),
		Entry("a tag twice", `spec: {placement: {tags: [a, a]}}`, "Duplicate"),
		Entry("17 tags", `spec: {placement: {tags: [`+manyServers(17)+`]}}`, "Too many"),
		Entry("the deletion of what is immutable", `spec: {protection: Immutable, deletionPolicy: Delete}`, "the events of an Immutable store go only by their age"),
		Entry("unknown protection", `spec: {protection: Locked}`, `supported values: "Erasable", "Immutable"`),
		Entry("an unknown management policy", `spec: {managementPolicy: None}`, `supported values: "Full", "Observe", "Paused"`),
		Entry("an unknown adoption policy", `spec: {adoptionPolicy: Steal}`, `supported values: "Refuse", "Adopt"`),
		Entry("a field that is unknown", `spec: {compresion: S2}`, "unknown field"),
		// Clients that drop empty lists would turn nobody into everybody.
		Entry("access for nobody", `spec: {access: []}`, "spec.access"),
		Entry("access without a service account", `spec: {access: [{role: Reader}]}`, "serviceAccount: Required"),
		Entry("an empty service account", `spec: {access: [{serviceAccount: ""}]}`, "spec.access[0].serviceAccount"),
		Entry("a service account that is no name", `spec: {access: [{serviceAccount: "shop:checkout"}]}`, "is not the name of a service account"),
		Entry("every service account", `spec: {access: [{serviceAccount: "*"}]}`, "is not the name of a service account"),
		Entry("a service account with a name that is too long", `spec: {access: [{serviceAccount: `+strings.Repeat("x", 254)+`}]}`, "Too long"),
		Entry("a namespace that is no name", `spec: {access: [{serviceAccount: checkout, namespace: a.b}]}`, "is not the name of a namespace"),
		Entry("a namespace that is too long", `spec: {access: [{serviceAccount: checkout, namespace: `+long+`}]}`, "Too long"),
		Entry("an unknown role", `spec: {access: [{serviceAccount: checkout, role: Owner}]}`, `supported values: "Writer", "Reader"`),
		Entry("a service account twice", `spec: {access: [{serviceAccount: checkout}, {serviceAccount: checkout, role: Reader}]}`, "Duplicate"),
		Entry("65 service accounts", `spec: {access: [`+manyAccounts(65, 10)+`]}`, "Too many"),
		Entry("service accounts with names too long in all", `spec: {access: [`+manyAccounts(17, 250)+`]}`, "4096 characters"),
	)

	It("has its defaults", func(ctx context.Context) {
		o := object("EventStore", ``)
		Expect(create(ctx, o)).To(Succeed())
		store := &v1alpha1.EventStore{}
		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(o), store)).To(Succeed())
		// What is left out is filled in by the operator, so that a class has a say in it.
		Expect(store.Spec).To(Equal(v1alpha1.EventStoreSpec{}))
		// Not seen yet: without this a new object would count as done.
		Expect(store.Status.ObservedGeneration).To(BeEquivalentTo(-1))
	})

	It("gives a service account the role Writer in its own namespace, unless it says otherwise", func(ctx context.Context) {
		o := object("EventStore", `spec: {access: [{serviceAccount: checkout}]}`)
		Expect(create(ctx, o)).To(Succeed())
		store := &v1alpha1.EventStore{}
		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(o), store)).To(Succeed())
		Expect(store.Spec.Access).To(Equal([]v1alpha1.AccessEntry{{ServiceAccount: "checkout", Role: v1alpha1.RoleWriter}}))
	})

	const all = `spec: {namespace: shop, className: standard, retention: {maxAge: 30d}, replicas: 3, storage: File, deletionPolicy: Retain}`
	edit := func(ctx context.Context, before, after string) error {
		o := object("EventStore", before)
		Expect(create(ctx, o)).To(Succeed())
		patch, err := yaml.YAMLToJSON([]byte(after))
		Expect(err).NotTo(HaveOccurred())
		return k8s.Patch(ctx, o, client.RawPatch(types.MergePatchType, patch), client.FieldValidation("Strict"))
	}

	DescribeTable("may change", func(ctx context.Context, after string) {
		Expect(edit(ctx, all, after)).To(Succeed())
	},
		Entry("retention", `spec: {retention: {maxAge: 60d}}`),
		Entry("retention back to its default", `spec: {retention: null}`),
		Entry("replicas", `spec: {replicas: 1}`),
		Entry("deletion policy", `spec: {deletionPolicy: Delete}`),
		Entry("replicas back to their default", `spec: {replicas: null}`),
		Entry("bytes", `spec: {retention: {maxBytes: 1Gi}}`),
		Entry("compression", `spec: {compression: None}`),
		Entry("duplicate window", `spec: {duplicateWindow: 5m}`),
		Entry("snapshots", `spec: {snapshots: {history: 3}}`),
		Entry("placement", `spec: {placement: {tags: [ssd]}}`),
		Entry("protection", `spec: {protection: Immutable}`),
		Entry("management policy", `spec: {managementPolicy: Paused}`),
		Entry("adoption policy", `spec: {adoptionPolicy: Adopt}`),
		Entry("nothing of what is immutable", `spec: {namespace: shop, className: standard, storage: File}`),
	)

	DescribeTable("may not change", func(ctx context.Context, before, after, field string) {
		Expect(edit(ctx, before, after)).To(MatchError(And(ContainSubstring(field+": Forbidden"), ContainSubstring("immutable"))))
	},
		Entry("the event namespace", all, `spec: {namespace: other}`, "spec.namespace"),
		Entry("the event namespace to unset", all, `spec: {namespace: null}`, "spec.namespace"),
		Entry("the event namespace from unset", `spec: {}`, `spec: {namespace: default}`, "spec.namespace"),
		Entry("the class", all, `spec: {className: other}`, "spec.className"),
		Entry("the class to unset", all, `spec: {className: null}`, "spec.className"),
		Entry("the class from unset", `spec: {}`, `spec: {className: other}`, "spec.className"),
		Entry("the storage", all, `spec: {storage: Memory}`, "spec.storage"),
		Entry("the storage to unset", all, `spec: {storage: null}`, "spec.storage"),
		Entry("the storage from unset", `spec: {}`, `spec: {storage: File}`, "spec.storage"),
	)

	DescribeTable("that is immutable keeps its events", func(ctx context.Context, before, after, message string) {
		Expect(edit(ctx, before, after)).To(MatchError(ContainSubstring(message)))
	},
		Entry("no deletion", `spec: {protection: Immutable}`, `spec: {deletionPolicy: Delete}`, "spec.deletionPolicy: Invalid"),
		Entry("no protection where they are deleted", `spec: {deletionPolicy: Delete}`, `spec: {protection: Immutable}`, "spec.deletionPolicy: Invalid"),
		Entry("a shorter age", `spec: {protection: Immutable, retention: {maxAge: 1y}}`, `spec: {retention: {maxAge: 364d23h}}`, "spec.retention.maxAge: Forbidden"),
		Entry("an age after none", `spec: {protection: Immutable, retention: {maxAge: "0"}}`, `spec: {retention: {maxAge: 290y}}`, "spec.retention.maxAge: Forbidden"),
	)

	DescribeTable("that is immutable may keep its events as long or longer", func(ctx context.Context, before, after string) {
		Expect(edit(ctx, `spec: {protection: Immutable, retention: {maxAge: `+before+`}}`, `spec: {retention: {maxAge: `+after+`}}`)).To(Succeed())
	},
		Entry("the same in other units", "1w1d", "192h"),
		Entry("longer", "1y", "365d1s"),
		Entry("for ever", "290y", `"0"`),
		Entry("as the class says, which the operator sees to", "30d", "null"),
	)

	DescribeTable("cannot take back that it is immutable", func(ctx context.Context, after string) {
		Expect(edit(ctx, `spec: {protection: Immutable}`, after)).To(MatchError(And(
			ContainSubstring("spec.protection: Forbidden"), ContainSubstring("cannot be taken back"))))
	},
		Entry("", `spec: {protection: Erasable}`),
		Entry("by leaving it out", `spec: {protection: null}`),
	)
})

var _ = Describe("An EventStoreClass", func() {
	const servers = `servers: ["nats://nats:4222"]`

	DescribeTable("is accepted with", accepted("EventStoreClass"),
		Entry("servers alone", `spec: {`+servers+`}`),
		Entry("every scheme", `spec: {servers: ["nats://a:4222", "tls://b:4222", "ws://c:80", "wss://d:443"]}`),
		Entry("no port", `spec: {servers: ["nats://nats.nats.svc"]}`),
		Entry("16 servers", `spec: {servers: [`+manyServers(16)+`]}`),
		Entry("credentials", `spec: {`+servers+`, credentials: {secretRef: {namespace: aether-system, name: nats}}}`),
		Entry("a domain", `spec: {`+servers+`, domain: hub}`),
		Entry("all namespaces", `spec: {`+servers+`, allowedNamespaces: {selector: {}}}`),
		Entry("some namespaces", `spec: {`+servers+`, allowedNamespaces: {selector: {matchLabels: {team: a}}}}`),
		Entry("every tenancy", `spec: {`+servers+`, tenancy: {eventNamespaces: Any, adoption: Allowed, takeBack: ByName, giveBack: [{namespace: shop, name: orders}]}}`),
		Entry("every default", `spec: {`+servers+`, defaults: {replicas: 3, retention: {maxAge: 30d, maxBytes: 1Gi}, storage: Memory, compression: None, placement: {tags: [ssd]}, duplicateWindow: 5m, snapshots: {history: 2, maxBytes: 1Gi}, protection: Immutable, deletionPolicy: Retain}}`),
		Entry("every limit", `spec: {`+servers+`, limits: {replicas: 3, maxBytes: 10Gi, snapshots: {history: 5, maxBytes: 1Gi}, requireMaxBytes: true, maxAge: 2y, storage: [File], deletionPolicies: [Retain], perNamespace: {stores: 5, bytes: 100Gi}}}`),
		Entry("namespaces by an expression", `spec: {`+servers+`, allowedNamespaces: {selector: {matchExpressions: [{key: team, operator: In, values: [a]}, {key: x, operator: Exists}]}}}`),
		Entry("open access of workloads", `spec: {`+servers+`, workloads: {servers: ["nats://b:4222"], access: None}}`),
		Entry("workloads without access", `spec: {`+servers+`, workloads: {servers: ["nats://b:4222"]}}`),
		Entry("every setting of the sidecar", `spec: {`+servers+`, injection: {image: "registry.example/aether-sidecar:1.0", resources: {requests: {cpu: 1, memory: 64Mi}, limits: {cpu: 500m, memory: 128Mi}}, env: [{name: OTEL_TRACES_EXPORTER, value: otlp}, {name: A}], userID: 1000660000, args: ["--max-calls=512", "--request-timeout=1m30s", "--wait-for-stores=500ms", "--log-level=warn", "--allow-host=sidecar", "--allow-origin=http://localhost:3000"]}}`),
		Entry("no user of the sidecar", `spec: {`+servers+`, injection: {userID: None}}`),
		Entry("a domain of workloads", `spec: {`+servers+`, domain: hub, workloads: {domain: aether}}`),
		Entry("credentials of workloads", `spec: {`+servers+`, workloads: {access: Secret, credentials: {secretRef: {namespace: a, name: b}}}}`),
		Entry("service accounts of workloads", `spec: {`+servers+`, workloads: {access: ServiceAccount, callout: {secretRef: {namespace: a, name: b}, account: WORKLOADS}}}`),
	)

	DescribeTable("is refused with", refused("EventStoreClass"),
		Entry("no spec", ``, "spec: Required"),
		Entry("no servers", `spec: {}`, "spec.servers: Required"),
		Entry("an empty list of servers", `spec: {servers: []}`, "spec.servers"),
		Entry("17 servers", `spec: {servers: [`+manyServers(17)+`]}`, "Too many"),
		Entry("a server twice", `spec: {servers: ["nats://a:4222", "nats://a:4222"]}`, "Duplicate"),
		Entry("credentials in a URL", `spec: {servers: ["nats://user:password@a:4222"]}`, "spec.servers[0]"),
		Entry("two servers in one URL", `spec: {servers: ["nats://a:4222,nats://b:4222"]}`, "spec.servers[0]"),
		Entry("an unknown scheme", `spec: {servers: ["http://a:4222"]}`, "spec.servers[0]"),
		Entry("an empty server", `spec: {servers: [""]}`, "spec.servers[0]"),
		Entry("a server that is too long", `spec: {servers: ["nats://`+strings.Repeat("a", 250)+`"]}`, "Too long"),
		Entry("a Secret without a name", `spec: {`+servers+`, credentials: {secretRef: {namespace: a, name: ""}}}`, "secretRef.name"),
		Entry("a Secret without a namespace", `spec: {`+servers+`, credentials: {secretRef: {name: a}}}`, "secretRef.namespace: Required"),
		Entry("credentials without a Secret", `spec: {`+servers+`, credentials: {}}`, "secretRef: Required"),
		Entry("a domain that is no name", `spec: {`+servers+`, domain: a.b}`, "spec.domain"),
		Entry("an unknown tenancy of event namespaces", `spec: {`+servers+`, tenancy: {eventNamespaces: All}}`, "tenancy.eventNamespaces"),
		Entry("a store given back without a namespace", `spec: {`+servers+`, tenancy: {giveBack: [{name: orders}]}}`, "namespace: Required"),
		Entry("a default that deletes what is immutable", `spec: {`+servers+`, defaults: {protection: Immutable, deletionPolicy: Delete}}`, "would delete what protection Immutable promises to keep"),
		Entry("an age as a limit that limits nothing", `spec: {`+servers+`, limits: {maxAge: "0"}}`, "would limit nothing"),
		Entry("part of a byte as a limit", `spec: {`+servers+`, limits: {perNamespace: {bytes: "1.5"}}}`, "must be a whole number of bytes"),
		Entry("namespaces by an unknown operator", `spec: {`+servers+`, allowedNamespaces: {selector: {matchExpressions: [{key: team, operator: Foo, values: [a]}]}}}`, "In, NotIn, Exists or DoesNotExist"),
		Entry("namespaces by an operator that lacks values", `spec: {`+servers+`, allowedNamespaces: {selector: {matchExpressions: [{key: team, operator: In}]}}}`, "need values"),
		Entry("allowed namespaces without a selector", `spec: {`+servers+`, allowedNamespaces: {}}`, "selector: Required"),
		Entry("too many replicas as a default", `spec: {`+servers+`, defaults: {replicas: 6}}`, "spec.defaults.replicas"),
		Entry("a default age of zero", `spec: {`+servers+`, defaults: {retention: {maxAge: 0s}}}`, `write "0" to keep events for ever`),
		Entry("a domain of workloads that is no name", `spec: {`+servers+`, workloads: {domain: "a b"}}`, "workloads.domain"),
		Entry("unknown access of workloads", `spec: {`+servers+`, workloads: {access: Everyone}}`, "workloads.access"),
		Entry("access Secret without credentials", `spec: {`+servers+`, workloads: {access: Secret}}`, "access Secret needs credentials"),
		Entry("credentials without access Secret", `spec: {`+servers+`, workloads: {access: None, credentials: {secretRef: {namespace: a, name: b}}}}`, "credentials go with access Secret"),
		Entry("credentials with access ServiceAccount", `spec: {`+servers+`, workloads: {access: ServiceAccount, callout: {secretRef: {namespace: a, name: b}, account: W}, credentials: {secretRef: {namespace: a, name: b}}}}`, "credentials go with access Secret"),
		Entry("access ServiceAccount without callout", `spec: {`+servers+`, workloads: {access: ServiceAccount}}`, "access ServiceAccount needs callout"),
		Entry("callout without access ServiceAccount", `spec: {`+servers+`, workloads: {callout: {secretRef: {namespace: a, name: b}, account: W}}}`, "callout goes with access ServiceAccount"),
		Entry("callout without a Secret", `spec: {`+servers+`, workloads: {access: ServiceAccount, callout: {account: W}}}`, "secretRef: Required"),
		Entry("callout without an account", `spec: {`+servers+`, workloads: {access: ServiceAccount, callout: {secretRef: {namespace: a, name: b}}}}`, "account: Required"),
		Entry("callout with an empty account", `spec: {`+servers+`, workloads: {access: ServiceAccount, callout: {secretRef: {namespace: a, name: b}, account: ""}}}`, "callout.account"),
		Entry("an image of the sidecar that is none", `spec: {`+servers+`, injection: {image: "two words"}}`, "injection.image"),
		Entry("no CPU for the sidecar", `spec: {`+servers+`, injection: {resources: {requests: {cpu: 0}}}}`, "must be more than 0"),
		Entry("less than no memory for the sidecar", `spec: {`+servers+`, injection: {resources: {limits: {memory: "-1Mi"}}}}`, "must be more than 0"),
		Entry("a variable that is the sidecar's own", `spec: {`+servers+`, injection: {env: [{name: AETHER_STORES, value: x}]}}`, "which the injection decides"),
		Entry("a variable that changes whom the sidecar trusts", `spec: {`+servers+`, injection: {env: [{name: SSL_CERT_FILE, value: x}]}}`, "which the injection decides"),
		Entry("a variable without a name", `spec: {`+servers+`, injection: {env: [{name: "a b"}]}}`, "env[0].name"),
		Entry("a variable of two lines", `spec: {`+servers+`, injection: {env: [{name: A, value: "1\n2"}]}}`, "env[0].value"),
		Entry("a variable twice", `spec: {`+servers+`, injection: {env: [{name: A}, {name: A}]}}`, "Duplicate value"),
		Entry("root as the user of the sidecar", `spec: {`+servers+`, injection: {userID: 0}}`, "must be a number above 0, or None"),
		Entry("a name as the user of the sidecar", `spec: {`+servers+`, injection: {userID: root}}`, "must be a number above 0, or None"),
		Entry("an argument about where to listen", `spec: {`+servers+`, injection: {args: ["--listen=:4280"]}}`, "is not an argument that can be given"),
		Entry("an argument with a value that is none", `spec: {`+servers+`, injection: {args: ["--max-calls=0"]}}`, "is not an argument that can be given"),
		Entry("callout with an account that is no name", `spec: {`+servers+`, workloads: {access: ServiceAccount, callout: {secretRef: {namespace: a, name: b}, account: "a b"}}}`, "callout.account"),
	)

	It("has its defaults", func(ctx context.Context) {
		o := object("EventStoreClass", `spec: {`+servers+`}`)
		Expect(create(ctx, o)).To(Succeed())
		class := &v1alpha1.EventStoreClass{}
		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(o), class)).To(Succeed())
		Expect(class.Spec.Workloads).To(Equal(v1alpha1.Workloads{Access: v1alpha1.AccessNone}))
		Expect(class.Status.ObservedGeneration).To(BeEquivalentTo(-1))
		Expect(class.IsDefault()).To(BeFalse())
	})
})

var _ = Describe("kubectl get", func() {
	columns := func(ctx context.Context, resource string) (always, wide []string) {
		crd := &unstructured.Unstructured{}
		crd.SetAPIVersion("apiextensions.k8s.io/v1")
		crd.SetKind("CustomResourceDefinition")
		Expect(k8s.Get(ctx, client.ObjectKey{Name: resource + "." + v1alpha1.GroupVersion.Group}, crd)).To(Succeed())
		versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
		Expect(err).NotTo(HaveOccurred())
		listed, _, err := unstructured.NestedSlice(versions[0].(map[string]any), "additionalPrinterColumns")
		Expect(err).NotTo(HaveOccurred())
		for _, c := range listed {
			column := c.(map[string]any)
			if column["priority"] == nil {
				always = append(always, column["name"].(string))
			} else {
				wide = append(wide, column["name"].(string))
			}
		}
		return always, wide
	}

	It("shows what an EventStore is about", func(ctx context.Context) {
		always, wide := columns(ctx, "eventstores")
		Expect(always).To(HaveExactElements("Ready", "Reason", "Class", "Stream", "Replicas", "Max Age", "Messages", "Size", "Full", "Age"))
		Expect(wide).To(HaveExactElements("Leader", "Last Event"))
	})

	It("shows what an EventStoreClass is about", func(ctx context.Context) {
		always, wide := columns(ctx, "eventstoreclasses")
		Expect(wide).To(HaveExactElements("Access", "Servers"))
		Expect(always).To(HaveExactElements("Ready", "Reason", "Default", "Version", "Peers", "Stores", "Age"))
	})
})

func manyServers(count int) string {
	urls := make([]string, count)
	for i := range urls {
		urls[i] = fmt.Sprintf(`"nats://n%d:4222"`, i)
	}
	return strings.Join(urls, ",")
}

func manyAccounts(count, characters int) string {
	entries := make([]string, count)
	for i := range entries {
		name := fmt.Sprintf("sa-%d", i)
		entries[i] = fmt.Sprintf(`{serviceAccount: %s, namespace: web}`, name+strings.Repeat("x", characters-len(name)-len("web")))
	}
	return strings.Join(entries, ",")
}
