"""Pictures of what the runs say."""
