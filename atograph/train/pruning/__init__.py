"""What methods share: units and their masks, how important units are, and the slim module in the dense one's place."""
