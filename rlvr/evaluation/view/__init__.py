"""A run as a local web page: an index over its stored rollouts, queries on it, and the server that answers them."""
