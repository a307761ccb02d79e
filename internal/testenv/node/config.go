//go:build linux

package node

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/util/keyutil"
)

func (n *Node) path(name string) string { return filepath.Join(n.Dir, name) }

// caFile is the certificate of the API server, which it makes by itself and which is
// its own authority.
func (n *Node) caFile() string { return n.path("apiserver/apiserver.crt") }

// configure writes what the programs read.
func (n *Node) configure() error {
	for _, dir := range []string{"logs", "cni"} {
		if err := os.Mkdir(n.path(dir), 0o755); err != nil {
			return err
		}
	}
	key, err := keyutil.MakeEllipticPrivateKeyPEM()
	if err != nil {
		return fmt.Errorf("make a key for tokens: %w", err)
	}
	for file, content := range map[string]string{
		"token.key":              string(key),
		"tokens.csv":             token + ",admin,admin,system:masters\n",
		"kubeconfig":             fmt.Sprintf(kubeconfig, n.caFile(), Address, apiServerPort, token),
		"containerd.toml":        fmt.Sprintf(containerdConfig, n.path("containerd"), pauseImage, cniPlugins, n.path("cni")),
		"cni/10-bridge.conflist": fmt.Sprintf(cniConfig, bridge, podCIDR, Address),
		"kubelet.yaml":           fmt.Sprintf(kubeletConfig, Address, n.CgroupRoot, containerd, n.path("volume-plugins")),
		"proxy.yaml":             fmt.Sprintf(proxyConfig, n.path("kubeconfig"), nodeName, podCIDR),
	} {
		if err := os.WriteFile(n.path(file), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Nothing that is kept depends on this etcd: it runs without fsync.
func (n *Node) etcd() []string {
	return []string{
		"etcd", "--data-dir", n.path("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380",
	}
}

func (n *Node) apiServer() []string {
	return []string{
		"kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--cert-dir", n.path("apiserver"),
		"--bind-address=" + Address, "--advertise-address=" + Address, "--secure-port=" + apiServerPort,
		"--service-cluster-ip-range=" + serviceCIDR, "--authorization-mode=RBAC", "--token-auth-file", n.path("tokens.csv"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file", n.path("token.key"), "--service-account-signing-key-file", n.path("token.key"),
		// Logs are read through the kubelet, whose name nobody resolves.
		"--kubelet-preferred-address-types=InternalIP",
	}
}

// Its limits are raised: the service account without which no pod is admitted is
// there in half the time.
func (n *Node) controllerManager() []string {
	return []string{
		"kube-controller-manager", "--kubeconfig", n.path("kubeconfig"), "--leader-elect=false", "--bind-address=127.0.0.1",
		"--root-ca-file", n.caFile(), "--service-account-private-key-file", n.path("token.key"),
		"--kube-api-qps=500", "--kube-api-burst=1000", "--flex-volume-plugin-dir", n.path("volume-plugins"),
	}
}

func (n *Node) scheduler() []string {
	return []string{"kube-scheduler", "--kubeconfig", n.path("kubeconfig"), "--leader-elect=false", "--bind-address=127.0.0.1"}
}

func (n *Node) kubelet() []string {
	return []string{"kubelet", "--kubeconfig", n.path("kubeconfig"), "--config", n.path("kubelet.yaml"), "--hostname-override=" + nodeName, "--node-ip=" + Address}
}

func (n *Node) proxy() []string { return []string{"kube-proxy", "--config", n.path("proxy.yaml")} }

const kubeconfig = `apiVersion: v1
kind: Config
clusters:
- name: node
  cluster: {certificate-authority: %s, server: "https://%s:%s"}
users:
- name: admin
  user: {token: %s}
contexts:
- name: node
  context: {cluster: node, user: admin}
current-context: node
`

// restrict_oom_score_adj: without CAP_SYS_RESOURCE runc may not lower the score of
// the sandbox, and no pod would start.
const containerdConfig = `version = 2
root = "%s"
state = "/run/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "%s"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "%s"
    conf_dir = "%s"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
`

const cniConfig = `{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [{
    "type": "bridge", "bridge": "%s", "isGateway": true, "hairpinMode": true,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "%s", "gateway": "%s"}]], "routes": [{"dst": "0.0.0.0/0"}]}
  }]
}
`

// The thresholds of eviction are low, and images stay: the disk of whoever runs
// tests may be nearly full.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: %s
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: %s
enforceNodeAllocatable: [pods]
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://%s
volumePluginDir: %s
resolvConf: ""
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 50Mi, nodefs.available: 1%%, nodefs.inodesFree: 1%%, imagefs.available: 1%%}
`

// The limits of conntrack are the machine's, and stay as they are.
const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: %s}
hostnameOverride: %s
clusterCIDR: %s
mode: iptables
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`
