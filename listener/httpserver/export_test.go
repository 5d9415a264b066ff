package httpserver

var (
	Resolve       = resolve
	WithoutMethod = withoutMethod
)
