package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// applySamples applies the samples as they are; only the addresses of the NATS
// servers differ, since no cluster DNS serves the ones in the sample.
func (d *demo) applySamples(ctx context.Context) error {
	_, err := d.system.apply(ctx, "config/samples", func(object *unstructured.Unstructured) error {
		if object.GetKind() != "EventStoreClass" {
			return nil
		}
		return unstructured.SetNestedStringSlice(object.Object, d.system.nats.URLs(), "spec", "servers")
	})
	if err != nil {
		return err
	}
	if err := d.awaitReady(ctx); err != nil {
		return err
	}
	return d.printStores(ctx)
}

// awaitReady waits until every EventStore is Ready for the generation that it
// has.
func (d *demo) awaitReady(ctx context.Context) error {
	return eventually(ctx, 2*time.Minute, "the EventStores to be Ready", func(ctx context.Context) error {
		var stores v1alpha1.EventStoreList
		if err := d.system.kubernetes.Client.List(ctx, &stores); err != nil {
			return err
		}
		for _, s := range stores.Items {
			ready := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionReady)
			switch {
			case s.Status.ObservedGeneration != s.Generation || ready == nil:
				return fmt.Errorf("%s/%s has not been looked at by the operator", s.Namespace, s.Name)
			case ready.Status != metav1.ConditionTrue:
				return fmt.Errorf("%s/%s: %s: %s", s.Namespace, s.Name, ready.Reason, ready.Message)
			}
		}
		return nil
	})
}

// printStores prints what kubectl get eventstores prints: the table is made by
// the API server.
func (d *demo) printStores(ctx context.Context) error {
	httpClient, err := rest.HTTPClientFor(d.system.kubernetes.Config)
	if err != nil {
		return err
	}
	address, err := url.JoinPath(d.system.kubernetes.Config.Host, "apis", v1alpha1.GroupVersion.String(), "eventstores")
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	response, err := httpClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("list the EventStores as a table: the API server answers %s", response.Status)
	}
	var table metav1.Table
	if err := json.NewDecoder(response.Body).Decode(&table); err != nil {
		return fmt.Errorf("read the table of EventStores: %w", err)
	}
	return d.printTable(&table)
}

func (d *demo) printTable(table *metav1.Table) error {
	w := tabwriter.NewWriter(d.out, 0, 0, 3, ' ', 0)
	line := "    NAMESPACE"
	for _, column := range table.ColumnDefinitions {
		if column.Priority == 0 {
			line += "\t" + strings.ToUpper(column.Name)
		}
	}
	_, _ = fmt.Fprintln(w, line)
	for _, row := range table.Rows {
		var object metav1.PartialObjectMetadata
		if err := json.Unmarshal(row.Object.Raw, &object); err != nil {
			return fmt.Errorf("read a row of the table of EventStores: %w", err)
		}
		line := "    " + object.Namespace
		for i, cell := range row.Cells {
			if table.ColumnDefinitions[i].Priority == 0 {
				line += fmt.Sprintf("\t%v", cell)
			}
		}
		_, _ = fmt.Fprintln(w, line)
	}
	return w.Flush()
}

// stream asks JetStream itself, past the operator.
func (d *demo) stream(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	nc, err := nats.Connect(d.system.nats.URL())
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	s, err := js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("look up stream %s: %w", name, err)
	}
	return s.CachedInfo(), nil
}

func sampleStore(name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(), "kind": "EventStore",
		"metadata": map[string]any{"namespace": "shop", "name": name},
		"spec":     spec,
	}}
}

func (d *demo) changeStore(ctx context.Context) error {
	const name = "payments"
	for _, want := range []struct {
		maxAge   string
		age      time.Duration
		replicas int
	}{
		{"30d", 30 * 24 * time.Hour, 3},
		{"90d", 90 * 24 * time.Hour, 1},
	} {
		spec := map[string]any{"retention": map[string]any{"maxAge": want.maxAge}, "replicas": int64(want.replicas)}
		if err := d.system.kubernetes.Apply(ctx, sampleStore(name, spec)); err != nil {
			return err
		}
		if err := d.awaitReady(ctx); err != nil {
			return err
		}
		info, err := d.stream(ctx, "shop_"+name)
		if err != nil {
			return err
		}
		if info.Config.MaxAge != want.age || info.Config.Replicas != want.replicas {
			return fmt.Errorf("the EventStore is Ready and its stream has max age %s and %d replicas", info.Config.MaxAge, info.Config.Replicas)
		}
		d.show("applied maxAge %s, replicas %d: stream shop_%s has max age %s, replicas %d", want.maxAge, want.replicas, name, info.Config.MaxAge, info.Config.Replicas)
	}
	return d.printStores(ctx)
}

func (d *demo) deleteStore(ctx context.Context) error {
	const streamName = "shop_" + store
	before, err := d.stream(ctx, streamName)
	if err != nil {
		return err
	}
	var resource v1alpha1.EventStore
	key := client.ObjectKey{Namespace: "shop", Name: store}
	if err := d.system.kubernetes.Client.Get(ctx, key, &resource); err != nil {
		return err
	}
	if err := d.system.kubernetes.Client.Delete(ctx, &resource); err != nil {
		return err
	}
	err = eventually(ctx, time.Minute, "EventStore shop/orders to be gone", func(ctx context.Context) error {
		if err := d.system.kubernetes.Client.Get(ctx, key, &resource); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is still there (%w)", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	after, err := d.stream(ctx, streamName)
	if err != nil {
		return err
	}
	if after.State.Msgs != before.State.Msgs || !after.Created.Equal(before.Created) {
		return fmt.Errorf("stream %s had %d messages and has %d", streamName, before.State.Msgs, after.State.Msgs)
	}
	d.show("EventStore deleted; stream %s still has its %d messages", streamName, after.State.Msgs)

	if err := d.applySamples(ctx); err != nil {
		return err
	}
	checked, err := d.app.checkAcknowledged(ctx)
	d.show("applied again: all %d events read back through the sidecar", checked)
	return err
}
