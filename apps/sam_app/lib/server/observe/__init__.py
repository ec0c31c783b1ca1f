"""What the server lets others see of its work: the audit log, metrics, and logs that name no patient."""
