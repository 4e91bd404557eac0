"""The command line, asked whether it would take some words."""


def parsed(command, words: list[str]) -> None:
    """Let the command line read the words, down to the last subcommand, and run nothing."""
    with command.make_context(command.name, list(words)) as context:
        if hasattr(command, "resolve_command"):
            _, inner, rest = command.resolve_command(
                context, [*context._protected_args, *context.args]
            )
            assert inner is not None
            parsed(inner, rest)
