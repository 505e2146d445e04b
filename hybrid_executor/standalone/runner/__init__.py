"""A process that behaves as a Kubernetes node and runs each pod's containers as local processes.

It reads and writes through the Kubernetes API only, so the same code serves the
embedded API and a real control plane (as ``system:node:<name>``). What it does
not do (images, network isolation, cgroups, probes, exec) stands in its first
log line.

    pure    quantity · node · environment · volumeplan · plan · fit · loglines
            podstate · podconditions · podstatus
    shell   launcher (runs inside the container) · isolation · container · memory · volumes · logstore
            kubeconfig · certificate · client · reflector · events · objects · provisions
            ending · podboard · statuswriter · containerlife · podworker
            logaccess · logserver · heartbeat · binder · agent

Started by ``python -m hybrid_executor.standalone.runner``; the stack is its only
caller in the product.
"""
