"""Seeing: image-text similarity, detection, identity, faces.

Every backend is loaded by path or hub id through transformers' own classes, and takes images as
uint8 arrays [H, W, 3]; boxes are `box_xyxy01`: left, top, right, bottom as shares of the image.
"""
