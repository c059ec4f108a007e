"""Tuning by measurement: tilings, algorithms and patches, timed on this machine or on others over TVM's RPC."""
