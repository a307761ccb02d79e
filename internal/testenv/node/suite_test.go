//go:build node

package node_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/callout"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/node"
)

const (
	// wait bounds every wait of these tests: a pod takes seconds where there is nothing
	// else to do.
	wait = 3 * time.Minute

	operatorNamespace = "aether-system"
	operatorName      = "aether-operator"
	// defaultClass is for all stores that name none, and calloutClass asks who a pod is.
	defaultClass, calloutClass = "standard", "callout"
)

// cluster is a node with config/default on it, and servers what its default class
// names.
var (
	cluster *node.Node
	servers *natsserver.Cluster
	// clientset reads logs, which the other client does not.
	clientset *kubernetes.Clientset
)

func TestMain(m *testing.M) {
	os.Exit(node.Main(func(n *node.Node) int {
		cluster = n
		stop, err := install()
		if err != nil {
			fmt.Fprintln(os.Stderr, "install Aether:", err)
			return 1
		}
		defer stop()
		code := m.Run()
		if code != 0 {
			showOperator()
		}
		return code
	}))
}

// install applies config/default as its users do, with their names of the images, and
// a class each for servers that ask who a pod is and for servers that do not.
func install() (stop func(), err error) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if clientset, err = kubernetes.NewForConfig(cluster.Config); err != nil {
		return nil, err
	}
	objects, err := testenv.Render("config/default")
	if err != nil {
		return nil, err
	}
	for _, object := range objects {
		if object.GetKind() == "Deployment" {
			if err := nameImages(object); err != nil {
				return nil, err
			}
		}
		// A kind that was just installed takes a moment to be served.
		if err := node.Poll(ctx, object.GetKind()+" "+object.GetName()+" to be applied", func() error { return cluster.Apply(ctx, object) }); err != nil {
			return nil, err
		}
	}
	asking, err := startServers(ctx)
	if err != nil {
		return nil, err
	}
	for _, ready := range []func(context.Context) error{operatorReady, webhookReady} {
		if err := node.Poll(ctx, "the operator", func() error { return ready(ctx) }); err != nil {
			return nil, err
		}
	}
	return func() { servers.Stop(); asking.Stop() }, nil
}

func nameImages(deployment *unstructured.Unstructured) error {
	containers, _, err := unstructured.NestedSlice(deployment.Object, "spec", "template", "spec", "containers")
	if err != nil {
		return err
	}
	container := containers[0].(map[string]any)
	container["image"] = node.OperatorImage
	for _, variable := range container["env"].([]any) {
		if variable := variable.(map[string]any); variable["name"] == "AETHER_SIDECAR_IMAGE" {
			variable["value"] = node.SidecarImage
		}
	}
	return unstructured.SetNestedSlice(deployment.Object, containers, "spec", "template", "spec", "containers")
}

// startServers starts NATS where pods reach it, and makes the classes.
func startServers(ctx context.Context) (asking *natsserver.Cluster, err error) {
	host := natsserver.WithHost(node.Address)
	if servers, err = natsserver.Start(filepath.Join(cluster.Dir, "nats"), 1, host); err != nil {
		return nil, err
	}
	setup, err := callout.New()
	if err != nil {
		return nil, err
	}
	if asking, err = setup.Start(filepath.Join(cluster.Dir, "nats-callout"), 1, host); err != nil {
		return nil, err
	}
	standard := &v1alpha1.EventStoreClass{ObjectMeta: metav1.ObjectMeta{
		Name: defaultClass, Annotations: map[string]string{v1alpha1.AnnotationDefaultClass: "true"},
	}}
	standard.Spec.Servers = []v1alpha1.ServerURL{v1alpha1.ServerURL(servers.URL())}
	for _, object := range append(setup.Class(calloutClass, asking), standard) {
		// Where the operator may read Secrets.
		switch object := object.(type) {
		case *corev1.Secret:
			object.Namespace = operatorNamespace
		case *v1alpha1.EventStoreClass:
			if object.Name == calloutClass {
				object.Spec.Credentials.SecretRef.Namespace = operatorNamespace
				object.Spec.Workloads.Callout.SecretRef.Namespace = operatorNamespace
			}
		}
		if err := cluster.Client.Create(ctx, object); err != nil {
			return nil, err
		}
	}
	return asking, nil
}

// operatorReady says whether both replicas pass the probes of their manifest.
func operatorReady(ctx context.Context) error {
	var deployment appsv1.Deployment
	if err := cluster.Client.Get(ctx, client.ObjectKey{Namespace: operatorNamespace, Name: operatorName}, &deployment); err != nil {
		return err
	}
	if status := deployment.Status; status.ReadyReplicas != *deployment.Spec.Replicas || status.UpdatedReplicas != *deployment.Spec.Replicas {
		return fmt.Errorf("%d of %d replicas of the operator are ready", status.ReadyReplicas, *deployment.Spec.Replicas)
	}
	return nil
}

// webhookReady says whether the node has heard that the operator is ready: its Service
// leads nowhere for a moment more.
func webhookReady(ctx context.Context) error {
	template := application("none", "pause")
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Namespace, pod.Name = "default", "none"
	return cluster.Client.Create(ctx, pod, client.DryRunAll)
}

// showOperator prints the ends of the logs of the operator.
func showOperator() {
	ctx := context.Background()
	var pods corev1.PodList
	if err := cluster.Client.List(ctx, &pods, client.InNamespace(operatorNamespace)); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	for _, pod := range pods.Items {
		log, err := clientset.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{TailLines: new(int64(50))}).DoRaw(ctx)
		fmt.Fprintf(os.Stderr, "\nThe end of the log of pod %s: %v\n%s\n", pod.Name, err, log)
	}
}
