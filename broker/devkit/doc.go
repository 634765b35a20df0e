// Package devkit is what a broker needs around it when nothing real is there: a private PostgreSQL server started from the
// machine's own programs, and a demo OIDC provider over plain HTTP. `daypassd dev` hosts both in its process, and the tests use
// them instead of fakes, so that what is tried is SQL on a real server and signatures on real tokens.
//
// Both are for demos and tests alone. The provider gives any token to whoever asks, and therefore listens on loopback only.
// The server is private to its folder: its socket stands in a folder of mode 0700, and it ends with the process that started it.
//
// Tests take their databases from package devtest, which starts one server for a test binary.
package devkit
