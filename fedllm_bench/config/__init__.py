"""What a run is asked to do: its settings, presets and base model, checked before anything is loaded."""
