package sidecar

import (
	"context"
	"fmt"
	"sync"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1/eventstorev1connect"
)

// SaveBatches makes several saves at once, each as SaveEvents does and with an
// answer of its own.
func (s *service) SaveBatches(ctx context.Context, request *eventstorev1.SaveBatchesRequest) (*eventstorev1.SaveBatchesResponse, error) {
	batches := request.GetBatches()
	if len(batches) < 1 || len(batches) > eventstorev1.MaxSaveBatches {
		return nil, &requestError{field: "batches", reason: fmt.Sprintf("are %d: give 1 to %d, and the others in a call of their own", len(batches), eventstorev1.MaxSaveBatches)}
	}
	if err := accountOf(ctx).saving(ctx, len(batches)); err != nil {
		return nil, err
	}
	results := make([]*eventstorev1.SaveBatchResult, len(batches))
	var saves sync.WaitGroup
	for i := 1; i < len(batches); i++ {
		saves.Go(func() { results[i] = s.saveBatch(ctx, batches[i]) })
	}
	// This goroutine would only wait.
	results[0] = s.saveBatch(ctx, batches[0])
	saves.Wait()
	return &eventstorev1.SaveBatchesResponse{Results: results}, nil
}

// saveBatch makes one of the saves of a call. It is counted, logged and traced
// as a SaveEvents of its own, and a panic in it is its own too: nothing above it
// in its goroutine would catch that.
func (s *service) saveBatch(ctx context.Context, batch *eventstorev1.SaveBatch) (result *eventstorev1.SaveBatchResult) {
	const procedure = eventstorev1connect.EventStoreServiceSaveEventsProcedure
	var links []trace.Link
	if parent := batch.GetTraceParent(); parent != "" {
		// In another trace, it still tells the call that it came with.
		links = append(links, trace.LinkFromContext(ctx))
		ctx = contextFormat.Extract(ctx, propagation.MapCarrier{"traceparent": parent})
	}
	ctx, calling := s.server.begin(ctx, nil, "rpc", procedure, false, links...)
	var (
		saved *eventstorev1.SaveEventsResponse
		err   error
	)
	defer func() {
		if failed := s.server.settle(ctx, procedure, calling, recover(), err); failed != nil {
			result = &eventstorev1.SaveBatchResult{Result: &eventstorev1.SaveBatchResult_Failure{Failure: failed.saveFailure()}}
			return
		}
		result = &eventstorev1.SaveBatchResult{Result: &eventstorev1.SaveBatchResult_Saved{Saved: saved}}
	}()
	saved, err = s.SaveEvents(ctx, batch.GetSave())
	return nil
}
