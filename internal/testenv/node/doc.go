// Package node runs a whole Kubernetes node for tests: kubelet, containerd, kube-proxy
// and the controllers, with an API server and etcd. What runs on it are real
// containers with real limits, volumes, probes and Services.
//
// All of it lives in network, mount and process namespaces of its own, so that its
// ports, mounts and iptables rules meet nothing else on the machine, and the end of
// one process ends everything. It needs root on Linux, and packages of Debian that
// make test-node installs. There is no cluster DNS and no registry, and what is slow
// or safe elsewhere is not here: etcd does not sync, and everyone may call the kubelet.
//
// Its tests run pods of every kind with the sidecar in them.
package node
