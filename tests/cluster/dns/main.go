// Command dns is CoreDNS with the few plugins that a cluster of the tests needs.
//
// The stock binary links some fifty plugins with the clients of every cloud;
// this one answers for cluster.local from the API server and forwards nothing.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

// The order in which a query passes the plugins.
var directives = []string{
	"bind", "health", "ready", "errors", "cache", "loadbalance", "template", "kubernetes",
}

func main() {
	dnsserver.Directives = directives
	coremain.Run()
}
