"""What a cluster's nodes offer and what pods ask for, over plain values. Pure, standard library only.

The one place that does arithmetic with Kubernetes quantities: the Kubernetes
backend asks it what holds a pod up, and the embedded cluster's node what it
may bind. Who reads nodes and pods is the caller's business.
"""
