"""The engine: SAM models, prompts, embeddings and prediction.

Independent of MONAI Label, HTTP and DICOM; its only files are checkpoints, converted networks and embeddings. This
module imports nothing, so that one part (the architecture of ``sam_tiny``, say) needs no other's dependencies.
"""
