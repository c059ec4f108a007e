"""What a layer costs, plain and under a method, on this machine."""
