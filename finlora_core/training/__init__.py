"""From a run config to what Axolotl reads, and from what Axolotl did to words."""
