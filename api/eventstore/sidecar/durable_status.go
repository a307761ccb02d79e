package sidecar

import (
	"context"
	"fmt"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
)

// ListDurables lists the durable subscriptions of the sidecar's store.
func (s *Store) ListDurables(ctx context.Context) ([]string, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	response, err := s.client.ListDurables(ctx, &eventstorev1.ListDurablesRequest{Store: s.name})
	if err != nil {
		return nil, fmt.Errorf("list durable subscriptions through the sidecar: %w", readError(ctx, err))
	}
	return response.GetNames(), nil
}

// GetDurableStatus says how a durable subscription of the sidecar's store is doing.
func (s *Store) GetDurableStatus(ctx context.Context, name string) (eventstore.DurableStatus, error) {
	failed := func(err error) (eventstore.DurableStatus, error) {
		return eventstore.DurableStatus{}, fmt.Errorf("get the status of durable subscription %.100q through the sidecar: %w", name, err)
	}
	if err := eventstore.ValidateDurableName(name); err != nil {
		return failed(err)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	response, err := s.client.GetDurableStatus(ctx, &eventstorev1.GetDurableStatusRequest{Store: s.name, Name: name})
	if err != nil {
		return failed(readError(ctx, err))
	}
	return response.GetStatus().ToDurableStatus(), nil
}
