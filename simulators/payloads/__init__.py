"""Payload formats that simulated devices speak, one module each, beside the decoder of the same name."""
