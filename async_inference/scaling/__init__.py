"""How AWS scales an asynchronous endpoint, as pure functions: no Pulumi, no AWS, no I/O."""
