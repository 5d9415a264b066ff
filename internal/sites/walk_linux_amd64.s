#include "textflag.h"

// func walk(pcs *[maxWalk]uintptr) (n int, whole bool)
//
// No frame, and nothing that could grow the stack or be preempted: the frames
// stay where they are while they are read. BP is the frame pointer of the
// caller. A frame pointer points to the one before, above which lies the return
// address. That of the first function of a goroutine is 0. Nothing is read but
// between g.stack.lo and g.stack.hi, the first two words of a g, where C code of
// the runtime looks for them, too (runtime/cgo/libcgo.h).
TEXT ·walk(SB), NOSPLIT|NOFRAME, $0-17
	MOVQ pcs+0(FP), DI
	MOVQ (TLS), AX
	MOVQ 0(AX), R8
	MOVQ 8(AX), R9
	SUBQ $16, R9
	MOVQ BP, BX
	XORQ CX, CX
	MOVB $0, whole+16(FP)

next:
	TESTQ BX, BX
	JEQ   bottom
	CMPQ  CX, $64
	JEQ   end
	CMPQ  BX, R8
	JB    end
	CMPQ  BX, R9
	JA    end
	MOVQ  8(BX), DX
	MOVQ  DX, (DI)(CX*8)
	INCQ  CX
	LEAQ  16(BX), R8
	MOVQ  (BX), BX
	JMP   next

bottom:
	MOVB $1, whole+16(FP)

end:
	MOVQ CX, n+8(FP)
	RET
