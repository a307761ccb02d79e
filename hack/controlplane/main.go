// Command controlplane is kube-apiserver and etcd in one binary, built from
// their Go modules so that tests and the demo need no prebuilt download. Which
// of the two it is depends on the name it is called by; build.sh makes the
// links.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "kube-apiserver":
		os.Exit(cli.Run(app.NewAPIServerCommand()))
	case "etcd":
		etcdmain.Main(os.Args)
	default:
		fmt.Fprintf(os.Stderr, "controlplane: called as %q: call it by a link named kube-apiserver or etcd\n", name)
		os.Exit(2)
	}
}
