package sidecar

import (
	_ "embed"

	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
)

//go:embed openapi.yaml
var openAPI []byte

// getProto answers the contract of gRPC and Connect.
func getProto(c *call) error {
	c.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	// Who does not read its answer has nobody else to tell.
	_, _ = c.w.Write(eventstorev1.Source)
	return nil
}

func getOpenAPI(c *call) error {
	c.w.Header().Set("Content-Type", "application/yaml")
	// Who does not read its answer has nobody else to tell.
	_, _ = c.w.Write(openAPI)
	return nil
}
