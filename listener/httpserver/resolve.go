package httpserver

import (
	"net/http"
	"reflect"
	"strings"
	"sync"
)

// maxMuxes bounds the muxes that are followed: one could contain itself.
const maxMuxes = 8

// resolve finds out what h will do with r: the pattern that r matches, without
// its method, and the function that handles it.
func resolve(h http.Handler, r *http.Request) (route string, f any) {
	pattern := r.Pattern // of a mux outside
	for range maxMuxes {
		mux, ok := h.(*http.ServeMux)
		if !ok || mux == nil {
			break
		}
		h, pattern = mux.Handler(r)
	}
	switch reflect.TypeOf(h) {
	case redirectType:
		return "", nil // its pattern may be a path, and it does not last
	case handlerType:
		return "", nil // speaks for itself
	}
	return withoutMethod(pattern), function(h)
}

var (
	redirectType = reflect.TypeOf(http.RedirectHandler("/", http.StatusFound))
	handlerType  = reflect.TypeFor[*handler]()
)

// withoutMethod removes the method from a pattern of http.ServeMux.
func withoutMethod(pattern string) string {
	if i := strings.IndexAny(pattern, " \t/"); i > 0 && pattern[i] != '/' {
		return strings.TrimLeft(pattern[i:], " \t")
	}
	return pattern
}

// function returns the function that h is, or its ServeHTTP method.
func function(h http.Handler) any {
	t := reflect.TypeOf(h)
	if t == nil || t.Kind() == reflect.Func {
		return h
	}
	if f, ok := methods.Load(t); ok {
		return f
	}
	f := serveMethod(t)
	methods.Store(t, f)
	return f
}

// methods remembers what serveMethod found: it allocates, and there are few
// types of handlers.
var methods sync.Map // reflect.Type -> func, or nil

func serveMethod(t reflect.Type) any {
	// With a value receiver, the method of the pointer is the compiler's, and
	// has no line.
	if t.Kind() == reflect.Pointer {
		if m, ok := t.Elem().MethodByName("ServeHTTP"); ok && t.Elem().Kind() != reflect.Interface {
			return m.Func.Interface()
		}
	}
	if m, ok := t.MethodByName("ServeHTTP"); ok {
		return m.Func.Interface()
	}
	return nil
}
