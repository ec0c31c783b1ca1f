"""Training as MONAI Label knows it: which labels of a datastore are accepted, and the tasks that learn from them."""
