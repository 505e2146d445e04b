// Kinds that the chart makes and that are of others: their definitions, as upstream publishes them. Nothing is built.
module hybrid-executor.test/cluster/crds

go 1.26.0

require (
	github.com/prometheus-operator/prometheus-operator v0.85.0
	sigs.k8s.io/gateway-api v1.4.0
)
