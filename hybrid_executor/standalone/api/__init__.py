"""A small Kubernetes API server: real list, watch and resourceVersion semantics, without a cluster.

Two halves. The pure half decides and knows no socket: ``kinds`` (what is
served), ``selectors``, ``patches``, ``validation``, ``defaults``, ``store``
(objects, revisions, the history that watches read) and ``registry`` (what each
verb does to an object). The other half does I/O: ``journal`` (SQLite),
``watching``, ``nodelogs``, ``http`` and ``server``; ``statefolder`` makes the
certificates, tokens and the kubeconfig.

It runs nothing and schedules nothing. A node is somebody else: it lists and
watches pods, writes their status through this API like a kubelet, and serves
``/containerLogs`` over TLS, to which ``pods/log`` is proxied. The state folder
holds what a node needs for that: ``node.crt`` and ``node.key`` (signed by
``ca.crt``, valid for 127.0.0.1 and localhost) and ``node-token``, the bearer
token with which this API asks for logs and which the node must check. All
private files have mode 0600.

Started by ``python -m hybrid_executor.standalone.api --state DIR``.
"""
