"""MONAI dictionary transforms between what clients send and what the engine takes and gives.

The keys that pass through the dictionary, in order:

================  ======================================================================================
``request``       :class:`~lib.transforms.request.SegmentRequest`: what was asked, which no transform changes
``image``         path, array or :class:`~lib.imaging.image.MedicalImage`; after loading always the latter
``reserved``      memory for work on the image, given back when nobody holds the dictionary any more
``slice``         k, the frame that was asked for; ``slice_source`` says by what
``objects``       list of :class:`~lib.sam.prompts.Prompts`, one an object; empty asks for automatic
``label_values``  the numbers that the objects have in the label that prompted
``earlier``       list of :class:`~lib.sam.refinement.EarlierObject` that the objects may extend
``frame``         that frame: modality values, then ``(H, W, 3)`` uint8 after windowing
``window``        :class:`~lib.transforms.window.AppliedWindow`
``predictions``   list of :class:`~lib.sam.predictor.Prediction`, one an object
``masks``         list of :class:`~lib.sam.packed_mask.PackedMask`, one an object, whole: they can overlap
``labels``        ``(H, W)`` uint8: 0 background, 1 the first object, and so on
``pred``          :class:`~lib.imaging.labels.slice_labels.SliceLabels`: ``labels`` in its frame of the volume
================  ======================================================================================

Through a volume, instead of ``slice`` to ``labels``:

=========================  =============================================================================
``volume_prompts``       :class:`~lib.sam.volume.propagation.VolumePrompts`
``volume_result``        :class:`~lib.sam.volume.result.VolumeResult`
=========================  =============================================================================
"""
