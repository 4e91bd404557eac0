"""What the Pulumi engine takes for its AWS provider on stack local."""
