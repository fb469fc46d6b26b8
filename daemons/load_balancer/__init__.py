"""The load balancer: the only process that devices reach; it holds nothing that matters."""
