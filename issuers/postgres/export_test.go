package postgres

// Waiting is how many users nobody has begun to make.
func (i *Issuer) Waiting() int {
	i.creating.mu.Lock()
	defer i.creating.mu.Unlock()
	return len(i.creating.waiting)
}
