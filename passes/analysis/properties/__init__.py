"""What holds of a group besides that its units may go: roles of its members, scales, orders, sums."""
