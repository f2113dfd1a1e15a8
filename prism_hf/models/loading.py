"""Loading that refuses a checkpoint which does not hold the whole model."""


class WholeCheckpointMixin:
    """Makes `from_pretrained` fail where transformers only warns. List it before `PreTrainedModel`.

    A weight that is missing would silently be drawn at random, and one that is left over means another architecture.
    """

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *model_args,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs,
    ):
        """As transformers'. Raises ValueError naming the weights that are missing, left over or of another size."""
        model, info = super().from_pretrained(
            pretrained_model_name_or_path,
            *model_args,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **kwargs,
        )
        mismatched = [
            f"{name} ({tuple(found)}, the config says {tuple(expected)})"
            for name, found, expected in info["mismatched_keys"]
        ]
        for problem, names, remedy in (
            (
                "of another size",
                [] if ignore_mismatched_sizes else mismatched,
                "check vocabulary and widths in config.json",
            ),
            ("missing", info["missing_keys"], "the checkpoint is incomplete or of another architecture"),
            ("left over", info["unexpected_keys"], "check model_type and the number of layers in config.json"),
        ):
            if names := sorted(names):
                shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
                raise ValueError(
                    f"{pretrained_model_name_or_path} is no whole {cls.__name__}; weights {problem}: {shown}. Remedy: "
                    f"{remedy}."
                )
        return (model, info) if output_loading_info else model
