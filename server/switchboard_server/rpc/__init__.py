"""The gRPC door: servicers, interceptors, error mapping, health and reflection."""
