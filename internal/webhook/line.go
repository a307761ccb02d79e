package webhook

import "slices"

// line are the calls that wait, in levels: networks, the addresses of each, the namespaces of
// each of these, and the calls of each of those. Of the parts of a level each is next once,
// and of the calls the eldest.
type line struct {
	calls []*turn
	parts map[string]*line
	// order are the names of the parts, the next one first.
	order []string
	// size is how many calls are in it.
	size int
}

func (l *line) enter(call *turn, path []string) {
	l.size++
	if len(path) == 0 {
		l.calls = append(l.calls, call)
		return
	}
	if l.parts[path[0]] == nil {
		if l.parts == nil {
			l.parts = map[string]*line{}
		}
		l.parts[path[0]] = &line{}
		l.order = append(l.order, path[0])
	}
	l.parts[path[0]].enter(call, path[1:])
}

// leave says whether the call was still there.
func (l *line) leave(call *turn, path []string) bool {
	if len(path) == 0 {
		at := slices.Index(l.calls, call)
		if at < 0 {
			return false
		}
		l.calls = slices.Delete(l.calls, at, at+1)
		l.size--
		return true
	}
	part := l.parts[path[0]]
	if part == nil || !part.leave(call, path[1:]) {
		return false
	}
	if l.size--; part.size == 0 {
		delete(l.parts, path[0])
		l.order = slices.DeleteFunc(l.order, func(name string) bool { return name == path[0] })
	}
	return true
}

// next takes the next call out of those that may, or gives nil.
func (l *line) next(may func(*turn) bool) *turn {
	if len(l.calls) > 0 && may(l.calls[0]) {
		call := l.calls[0]
		l.calls = l.calls[1:]
		l.size--
		return call
	}
	for at, name := range l.order {
		call := l.parts[name].next(may)
		if call == nil {
			continue
		}
		l.size--
		l.order = slices.Delete(l.order, at, at+1)
		if l.parts[name].size > 0 {
			l.order = append(l.order, name)
		} else {
			delete(l.parts, name)
		}
		return call
	}
	return nil
}

// has says whether there is a call that may be next.
func (l *line) has(may func(*turn) bool) bool {
	return len(l.calls) > 0 && may(l.calls[0]) ||
		slices.ContainsFunc(l.order, func(name string) bool { return l.parts[name].has(may) })
}

// last is the newest call of who has most: at each level of the part with most calls, and
// where some have as many, of the last one of these.
func (l *line) last() *turn {
	if len(l.calls) > 0 {
		return l.calls[len(l.calls)-1]
	}
	most := l.parts[l.order[0]]
	for _, name := range l.order[1:] {
		if part := l.parts[name]; part.size >= most.size {
			most = part
		}
	}
	return most.last()
}
