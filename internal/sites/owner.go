package sites

import (
	"slices"
	"strings"
)

// maxOwner is how many frames a report shows.
const maxOwner = 3

// view is what Owner and OwnerKey answer for one list of hidden prefixes. A
// stack keeps the view asked for last: a program has one tracker, so one list.
type view struct {
	hide   []string // a copy: the caller may change its slice
	frames []Frame
	key    uint64
}

func (id ID) view(hide []string) *view {
	s := stacks.get(id)
	if s == nil {
		return nil
	}
	if v := s.owner.Load(); v != nil && slices.Equal(v.hide, hide) {
		return v
	}
	v := &view{hide: slices.Clone(hide), frames: owner(s.symbolise(), hide)}
	if len(v.frames) > 0 {
		f := v.frames[0]
		v.key = max(1, fnvFrame(f.Function, f.File, f.Line))
	}
	s.owner.Store(v)
	return v
}

// owner chooses the frames to show.
//
// First comes the nearest frame of the program, else the nearest one of a
// library that is neither std nor a layer, then the callers of that frame by
// the same rule. Where there is neither, one frame of a layer, or else of the
// standard library, is better than silence; its callers would only be more of
// the same.
func owner(frames []Frame, hide []string) []Frame {
	var out []Frame
	for len(out) < maxOwner {
		i := nearest(frames, hide, kindMain)
		if i < 0 {
			i = nearest(frames, hide, kindOther)
		}
		if i < 0 {
			break
		}
		out = append(out, frames[i])
		frames = frames[i+1:]
	}
	if out != nil {
		return slices.Clip(out)
	}
	for _, k := range [...]kind{kindLayer, kindStd} {
		if i := nearest(frames, hide, k); i >= 0 {
			return frames[i : i+1 : i+1]
		}
	}
	return nil
}

// nearest returns the index of the first frame of kind k that may be shown,
// or -1.
func nearest(frames []Frame, hide []string, k kind) int {
	return slices.IndexFunc(frames, func(f Frame) bool {
		return f.kind == k && !f.isPlumbing() && !f.hidden(hide)
	})
}

// isPlumbing reports whether f is on every stack, or calls a function it knows
// nothing about.
func (f Frame) isPlumbing() bool {
	return f.kind == kindStd && (f.pkg == "runtime" || f.pkg == "reflect" ||
		strings.HasPrefix(f.pkg, "runtime/") || strings.HasPrefix(f.pkg, "internal/runtime/"))
}

// hidden matches the name as the runtime writes it and as a person does, who
// would not escape the dot of "gopkg.in/yaml.v3".
func (f Frame) hidden(hide []string) bool {
	return slices.ContainsFunc(hide, func(p string) bool {
		if p == "" {
			return false
		}
		if strings.HasPrefix(f.Function, p) {
			return true
		}
		return strings.Contains(f.Function, "%") && strings.HasPrefix(unescape(f.Function), p)
	})
}
