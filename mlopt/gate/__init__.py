"""`mlopt gate`: whether a candidate is worse than its baseline, told apart from the noise of the machine."""
