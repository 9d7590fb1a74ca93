"""`flops models`: versions of the global model, looked back on."""
