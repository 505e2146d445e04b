"""A node with a real kubelet, containerd and kube-proxy, in namespaces of its own. See ``node.py``."""
