package isolated

func beParent(string) error { return nil }
