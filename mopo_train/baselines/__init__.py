"""Other methods under the same budget, as families of the same format: DPO, soups, scalarised DPO, MODPO, GRPO."""
