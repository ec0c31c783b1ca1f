"""Transforms of MONAI's data dictionary between the clients' formats and the engine's: callables, as MONAI's own are.

The dictionary's keys, in order:

================  ======================================================================================
``request``       :class:`~lib.transforms.request.SegmentRequest`, which no transform changes
``image``         path, array or :class:`~lib.imaging.image.MedicalImage`; after loading always the latter
``reserved``      memory reserved for work on the image, released with the dictionary
``slice``         k, the frame to segment; ``slice_source`` says what chose it
``objects``       list of :class:`~lib.sam.prompts.Prompts`, one per object; empty: automatic
``start``         mask ``(H, W)`` bool that the prompts correct, or None
``beside``        list of areas ``(H, W)`` bool that belong to no object
``protected``     where the image's label has other objects, ``(K, rows, columns)`` bool, or None
``cut``           area ``(H, W)`` bool that is cut out of every mask, or None
``label_values``  the objects' numbers in the label from which the prompts were made
``earlier``       list of :class:`~lib.sam.refinement.EarlierObject` that the objects may extend
``frame``         that frame after windowing, ``(H, W, 3)`` uint8
``window``        :class:`~lib.transforms.window.AppliedWindow`
``predictions``   list of :class:`~lib.sam.predictor.Prediction`, one per object
``masks``         list of :class:`~lib.sam.packed_mask.PackedMask`, one per object; they can overlap
``labels``        ``(H, W)`` uint8: 0 background, 1 the first object, and so on
``pred``          :class:`~lib.imaging.labels.slice_labels.SliceLabels`: ``labels`` in its frame of the volume
================  ======================================================================================

Through a volume, instead of ``slice`` to ``labels``:

=========================  =============================================================================
``volume_prompts``       :class:`~lib.sam.volume.propagation.VolumePrompts`
``beside``               areas ``(H, W)`` bool by slice that do not belong to the object
``volume_result``        :class:`~lib.sam.volume.result.VolumeResult`
=========================  =============================================================================
"""
