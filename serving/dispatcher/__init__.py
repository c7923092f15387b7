"""Many engines of one model behind one front: placement, health, repair, and loading of models when they are needed."""
