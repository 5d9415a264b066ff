// Package pool watches pools of connections that are not HTTP's.
package pool
