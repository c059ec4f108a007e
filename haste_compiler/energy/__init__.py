"""What a network's products cost in energy and its weights in storage, by the usual model of operations."""
