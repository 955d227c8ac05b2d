"""lifealign: keep a language model aligned for life."""
