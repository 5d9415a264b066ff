package tcpstate

// fifo is a queue that makes use of its memory again. What comes in bursts, one
// for every connection, would otherwise be paid for by every connection.
type fifo[T any] struct {
	room []T
	head int // of what has been taken out already
}

// keepQueue is how many elements an empty queue keeps room for.
const keepQueue = maxQueue / 2

func (q *fifo[T]) len() int { return len(q.room) - q.head }

// push adds v.
func (q *fifo[T]) push(v *T) {
	if len(q.room) == cap(q.room) && q.head > len(q.room)/2 {
		n := copy(q.room, q.room[q.head:])
		clear(q.room[n:])
		q.room, q.head = q.room[:n], 0
	}
	q.room = append(q.room, *v)
}

// pop moves the oldest element to v, if there is one.
func (q *fifo[T]) pop(v *T) (ok bool) {
	if q.len() == 0 {
		return false
	}
	var zero T
	*v, q.room[q.head] = q.room[q.head], zero
	if q.head++; q.head == len(q.room) {
		q.room, q.head = q.room[:0], 0
		if cap(q.room) > keepQueue {
			q.room = nil
		}
	}
	return true
}
