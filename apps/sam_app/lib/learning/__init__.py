"""What a site teaches the models by the labels that it accepts.

The image encoder stays as it is, so that embeddings remain valid. What is learned is an
:class:`~lib.sam.models.overlay.Overlay` on the mask decoder: of a model, whose answers to prompts it improves, or of
one label, which it finds without any prompt. The room knows neither HTTP nor MONAI Label.
"""
