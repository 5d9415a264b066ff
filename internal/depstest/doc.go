// Package depstest holds tests of the whole module: which package may depend on
// which, which foreign modules are allowed, and that what is exported is
// documented.
package depstest
