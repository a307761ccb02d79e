package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"git.flowmade.one/flowmade-one/aether-operator/internal/openport"
	"git.flowmade.one/flowmade-one/aether-operator/internal/ports"
)

// probed is a manager whose checks of /readyz are answered here: its own port of probes has no
// bounds.
type probed struct {
	manager.Manager
	ready map[string]healthz.Checker
}

func (p probed) AddReadyzCheck(name string, check healthz.Checker) error {
	p.ready[name] = check
	return nil
}

// serveProbes: alive is to answer at all; ready is to know the cluster and to reach it, and
// what was added to that.
func (p probed) serveProbes(ctx context.Context, address string) error {
	if address == "0" {
		return nil
	}
	api, err := discovery.NewDiscoveryClientForConfigAndClient(p.GetConfig(), p.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("make a client for /readyz: %w", err)
	}
	p.ready["apiserver"] = shared(ctx, func(ctx context.Context) error { return checkAPIServer(ctx, api.RESTClient()) })
	p.ready["caches"] = shared(ctx, func(ctx context.Context) error { return checkCaches(ctx, p.GetCache()) })
	mux := http.NewServeMux()
	for path, checks := range map[string]map[string]healthz.Checker{"/healthz": {"ping": healthz.Ping}, "/readyz": p.ready} {
		handler := http.StripPrefix(path, &healthz.Handler{Checks: checks})
		mux.Handle(path, handler)
		mux.Handle(path+"/", handler)
	}
	listener, err := ports.Listen(ctx, address, ports.Few, nil)
	if err != nil {
		return fmt.Errorf("serve /healthz and /readyz: %w", err)
	}
	server := ports.Server("probes", listener, mux)
	// The kubelet connects anew for each probe, and others are to keep no place.
	server.Server.SetKeepAlivesEnabled(false)
	return p.Add(server)
}

// The checks are made one after the other, and answered before the kubelet loses
// patience, which config/manager sets to 2 s.
const (
	apiServerPatience = time.Second
	cachesPatience    = 500 * time.Millisecond
)

// shared makes a check once a second at most for all who ask. Who asks while it is made has the
// outcome before it: many who wait would leave the port no place for the kubelet.
func shared(ctx context.Context, check func(context.Context) error) healthz.Checker {
	outcome := openport.Share(func() error { return check(context.WithoutCancel(ctx)) })
	return func(request *http.Request) error {
		found, err := outcome.FoundOrBefore(request.Context())
		return errors.Join(found, err)
	}
}

// checkAPIServer asks for the version: everybody may who is authenticated, and it
// costs the API server next to nothing.
func checkAPIServer(ctx context.Context, api rest.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, apiServerPatience)
	defer cancel()
	if err := api.Get().AbsPath("/version").Do(ctx).Error(); err != nil {
		return fmt.Errorf("the API server does not answer: %w", err)
	}
	return nil
}

// checkCaches: until they are filled, a store that exists would look deleted.
func checkCaches(ctx context.Context, informers cache.Cache) error {
	ctx, cancel := context.WithTimeout(ctx, cachesPatience)
	defer cancel()
	if !informers.WaitForCacheSync(ctx) {
		return errors.New("the caches are not filled yet: the API server has not told all that was asked")
	}
	return nil
}
